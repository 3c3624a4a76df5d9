// What became of the calls, as the lines of JSON say it.

package main

import (
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/status"
)

// figures are what became of the calls of one loop, or of all of them.
type figures struct {
	codes    map[string]int
	messages map[string]string
	// took has the times of the calls that went well.
	took []time.Duration
}

type firstCall struct {
	Code         string  `json:"code"`
	Milliseconds float64 `json:"ms"`
	Message      string  `json:"message"`
}

// A summary has one message for each code but OK, the first that a loop had.
type summary struct {
	Calls    int               `json:"calls"`
	Failed   int               `json:"failed"`
	Codes    map[string]int    `json:"codes"`
	Messages map[string]string `json:"messages"`
	P50      float64           `json:"p50_ms"`
	P99      float64           `json:"p99_ms"`
	Max      float64           `json:"max_ms"`
}

func newFigures() *figures {
	return &figures{codes: map[string]int{}, messages: map[string]string{}}
}

func newFirstCall(failure error, took time.Duration) firstCall {
	return firstCall{Code: codeName(failure), Milliseconds: milliseconds(took), Message: status.Convert(failure).Message()}
}

func (f *figures) add(failure error, took time.Duration) {
	name := codeName(failure)
	f.codes[name]++
	if failure == nil {
		f.took = append(f.took, took)
		return
	}
	if _, known := f.messages[name]; !known {
		f.messages[name] = status.Convert(failure).Message()
	}
}

func (f *figures) merge(other *figures) {
	for name, count := range other.codes {
		f.codes[name] += count
	}
	for name, message := range other.messages {
		if _, known := f.messages[name]; !known {
			f.messages[name] = message
		}
	}
	f.took = append(f.took, other.took...)
}

func (f *figures) summary() summary {
	slices.Sort(f.took)
	calls := 0
	for _, count := range f.codes {
		calls += count
	}
	return summary{
		Calls:    calls,
		Failed:   calls - len(f.took),
		Codes:    f.codes,
		Messages: f.messages,
		P50:      milliseconds(f.quantile(0.5)),
		P99:      milliseconds(f.quantile(0.99)),
		Max:      milliseconds(f.quantile(1)),
	}
}

// quantile wants sorted times; without any it is 0.
func (f *figures) quantile(part float64) time.Duration {
	if len(f.took) == 0 {
		return 0
	}
	return f.took[int(part*float64(len(f.took)-1))]
}

// codeName is the code as the protocol spells it: NOT_FOUND.
func codeName(failure error) string {
	return code.Code(status.Code(failure)).String()
}

func milliseconds(took time.Duration) float64 {
	return float64(took.Microseconds()) / 1000
}
