"""What a service embeds: verifying credentials, attaching them, and keeping up with the mesh."""
