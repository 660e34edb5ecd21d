"""An echo game server and a player for it.

`server` answers each line with its own name and the line; `player` connects by TLS with a chosen SNI, sends lines and
prints the answers. Together they show which game server a connection through sniproxy reached.
"""
