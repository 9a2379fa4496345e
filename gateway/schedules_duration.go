package gateway

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// formatDuration writes a duration as Django REST framework does: [days ]hours:minutes:seconds[.microseconds].
func formatDuration(d time.Duration) string {
	d = max(0, d).Truncate(time.Microsecond)
	text := fmt.Sprintf("%02d:%02d:%02d", d%day/time.Hour, d%time.Hour/time.Minute, d%time.Minute/time.Second)
	if days := d / day; days > 0 {
		text = strconv.FormatInt(int64(days), 10) + " " + text
	}
	if part := d % time.Second; part > 0 {
		text += fmt.Sprintf(".%06d", part/time.Microsecond)
	}
	return text
}

// The two ways in which Django takes durations that Sluice takes, too: its own, in which a number alone is seconds, and ISO 8601.
var (
	plainDuration = regexp.MustCompile(`^(?:(\d+) (?:days?, )?)?(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d+)?)$`)
	isoDuration   = regexp.MustCompile(`^P(?:(\d+(?:[.,]\d+)?)D)?(?:T(?:(\d+(?:[.,]\d+)?)H)?(?:(\d+(?:[.,]\d+)?)M)?(?:(\d+(?:[.,]\d+)?)S)?)?$`)
)

// maxDuration bounds the text of a duration, in bytes.
const maxDuration = 100

// parseDuration reads a duration. One that is longer than any limit becomes one that every limit refuses.
func parseDuration(text string) (time.Duration, bool) {
	if len(text) > maxDuration || text == "P" || strings.HasSuffix(text, "T") {
		return 0, false
	}
	parts := plainDuration.FindStringSubmatch(text)
	if parts == nil {
		parts = isoDuration.FindStringSubmatch(text)
	}
	if parts == nil {
		return 0, false
	}
	var seconds float64
	for i, unit := range []time.Duration{day, time.Hour, time.Minute, time.Second} {
		if parts[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(strings.Replace(parts[i+1], ",", ".", 1), 64)
		if err != nil {
			return 0, false
		}
		seconds += n * unit.Seconds()
	}
	return time.Duration(math.Round(min(seconds, farAway)*1e6)) * time.Microsecond, true
}
