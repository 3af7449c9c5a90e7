"""Who asks, and what they may do and see.

*Authentication* turns a request's credentials into a `Caller`; *permission* is what the caller's role may do, asked by
each route with `needs`; *view* is what of the data the caller sees, which reports and lists are cut to. An application
with a route that asks for no permission does not start.
"""
