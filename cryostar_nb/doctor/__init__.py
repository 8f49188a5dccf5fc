"""Which sign, hand, scale and placement make particles fit a reference: the questions that the doctor asks."""
