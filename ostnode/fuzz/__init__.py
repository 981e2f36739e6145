"""A fuzzer for the peer protocol: hostile cases, played against a node and judged."""
