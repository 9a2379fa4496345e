package main

import "testing"

func TestMedianIsTheMiddleWhateverTheOrder(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1}, 5},
		{[]float64{100, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := append([]float64(nil), tc.values...)
		if got := median(tc.values); got != tc.want {
			t.Errorf("median(%v) = %v, want %v", before, got, tc.want)
		}
		for i := range before {
			if tc.values[i] != before[i] {
				t.Fatalf("median sorted its argument: %v, was %v", tc.values, before)
			}
		}
	}
}

func TestQuantileIsAValueThatWasMeasured(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(i+1))
	}
	for _, tc := range []struct {
		sorted  []float64
		q, want float64
	}{
		{hundred, 0.50, 50},
		{hundred, 0.99, 99},
		{hundred, 0.991, 100},
		{hundred, 1, 100},
		{hundred, 0, 1},
		{[]float64{3}, 0.99, 3},
		{[]float64{1, 2, 3}, 0.5, 2},
	} {
		if got := quantile(tc.sorted, tc.q); got != tc.want {
			t.Errorf("quantile of %d values at %v = %v, want %v", len(tc.sorted), tc.q, got, tc.want)
		}
	}
}

func TestSpreadOfNothingIsNone(t *testing.T) {
	if s, ok := spreadOf(nil); ok {
		t.Errorf("got %v", s)
	}
	if s, _ := spreadOf([]float64{3, 1, 2}); s != (spread{median: 2, low: 1, high: 3}) {
		t.Errorf("got %v", s)
	}
}
