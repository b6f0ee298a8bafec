"""Reading a circuit's heads: what they write towards the answer, what they copy, what they look at
and why."""
