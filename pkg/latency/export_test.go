package latency

// Steps are where the buckets of a doubling begin.
func Steps() []uint64 { return steps[:] }
