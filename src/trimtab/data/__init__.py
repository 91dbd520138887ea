"""What is asked: pairs of answers, data sets and their splits, the layouts they come in, and the same questions asked
in other ways. No torch.
"""
