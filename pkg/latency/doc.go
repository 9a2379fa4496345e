// Package latency counts how long something took, in a form that is small, that can be added up, and that still tells percentiles.
//
// # Owns
//
// The histogram and how it is encoded. Its buckets lie evenly on a logarithmic scale, eight for each doubling of the time, from a
// microsecond to 50 days; zero has one of its own. So a percentile is right within 5 % (4.4 at most), whatever the times are, two
// histograms add up to the one of all their times, and what is not used takes no room: a few dozen buckets for what usually takes
// about as long. How many there were, and the longest, are exact.
//
// # Failure
//
// What Parse is given may be anything: it is an error, or a histogram. Nothing else fails.
package latency
