"""Who may use the server, and how much of it: API keys, their accounts, and the rate limit of each account."""

from server.access.accounts import Account
from server.access.gate import Gate
from server.access.keyring import KeyRing
from server.access.keys import KeysError

__all__ = ["Account", "Gate", "KeyRing", "KeysError"]
