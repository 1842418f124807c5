"""What several hosts of a fleet agree on about a consumer."""

UNIQUE = "unique"
"""Value of a consumer's key ``fleet``: only one host of the fleet may have it loaded."""
