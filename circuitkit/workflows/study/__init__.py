"""The study of Zhang & Nanda (2024) on any model: what activation patching finds, by corruption and
by metric; its tables, its pictures, its page, and what depends on the choice."""
