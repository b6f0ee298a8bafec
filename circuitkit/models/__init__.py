"""Models behind the protocol: TransformerLens, compiled decoders, their checks and their files."""
