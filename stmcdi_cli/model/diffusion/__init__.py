"""What both variants share: the noise schedule, Algorithm 1's loss and Algorithm 2's samplers."""
