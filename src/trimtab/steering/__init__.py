"""A vector and how it acts: the vector, what it is multiplied by, when and where it acts, what it is compared with, and
other models it may fit.
"""
