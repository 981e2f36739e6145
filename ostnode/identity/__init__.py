"""Keys, COSE_Sign1/CWT tokens, grants, sessions and logins. Pure."""
