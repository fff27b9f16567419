"""Several nodes: how they meet, what they check before they start, one attempt over all of them."""
