"""From raw tables to the cohort folder: which sample counts, what is known about it, and its expression.

`build.build_cohort` writes the folder, `read.read_cohort` reads it, `check.check_cohort` judges it.
"""
