"""The vjp rules of array-API functions, by kind; a new rule is one entry in one of these tables."""
