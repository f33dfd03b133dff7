"""The programs that the test bed starts in place of the product's own.

They run the product unchanged, except for what environment variables ask for: a wall clock that follows a file
(CHAOS_CLOCK), mutations (CHAOS_PLANT), passwords that are cheap to check (CHAOS_CHEAP_PASSWORDS), and the freshness of
the nodes' strict methods (CHAOS_FRESHNESS).
"""
