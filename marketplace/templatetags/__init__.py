"""How the pages print prices, money, tokens and times."""
