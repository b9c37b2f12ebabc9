"""``fastscore reproduce``: a published result made again, from the data to the report of what came out."""
