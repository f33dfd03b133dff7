"""The client side: obtaining credentials and attaching them."""
