"""The commands, a file for each: ``add`` says what there is to type, the function below it does it.

What needs torch is imported inside the functions, so that ``--help`` answers at once.
"""
