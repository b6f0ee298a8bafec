"""The three numerical verbs: run, attribute, sweep."""
