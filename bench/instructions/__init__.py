"""Count the instructions of what needs nothing but a processor: a second opinion without noise."""
