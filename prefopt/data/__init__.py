"""Rows in every accepted format, validated, tokenised and cut to length."""
