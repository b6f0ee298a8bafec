"""The commands, one file for each: ``add`` defines its options, the function below it runs it.

What needs torch is imported inside the functions, so that ``--help`` answers at once.
"""
