"""What a model, its cache and its engine take of a card, in bytes: the budget, and the rules of each engine."""
