"""Images by their URL: what may be fetched, from which addresses, how much of it, and for how long.

The client chooses the URL, so everything here assumes that it points at something of ours. `urls` and `addresses` are
pure and decide; `fetcher` connects, to exactly the addresses that were decided upon. Only this package opens
connections to the outside, and it is imported only where the setting `allow_urls` is on.
"""
