"""What the test bed starts in place of the product's own programs.

They run the product as it is, but for what an environment variable asks for: a wall clock that follows a dial
(CHAOS_CLOCK), bugs that are planted (CHAOS_PLANT), passwords that are cheap to check (CHAOS_CHEAP_PASSWORDS), and the
freshness of the nodes' strict methods (CHAOS_FRESHNESS).
"""
