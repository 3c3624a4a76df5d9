// Command grpc-client is a stock grpc-go client for proxyless gRPC: the library's xds resolver and balancers, told by
// GRPC_XDS_BOOTSTRAP or GRPC_XDS_BOOTSTRAP_CONFIG as the library reads them, and nothing of ours in between.
//
//	grpc-client --target xds:///iris --method /inference.GRPCInferenceService/ModelInfer --message request.bin
//
// It sends the message, an encoded request, in as many closed loops as --concurrency says, until its standard input is
// closed; with --calls until so many calls are done. Standard output has two lines of JSON, one when the first call
// has ended and one at the end:
//
//	{"first":{"code":"OK","ms":6.1,"message":""}}
//	{"calls":2,"failed":1,"codes":{"NOT_FOUND":1,"OK":1},"messages":{"NOT_FOUND":".."},"p50_ms":0.2,"p99_ms":0.2,"max_ms":0.2}
//
// Times are of calls that went well. A failed call is not made again, and its loop waits for 10 ms.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/xds" // the resolver of xds:///
)

const (
	// maxAnswerBytes is the longest answer; the default of grpc-go is 4 MB.
	maxAnswerBytes = 64 << 20
	// pauseAfterFailure keeps calls that fail at once from being a busy loop.
	pauseAfterFailure = 10 * time.Millisecond
)

type settings struct {
	target, method, message string
	concurrency             int
	calls                   int64
	deadline                time.Duration
	isStream, waitForReady  bool
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "grpc-client:", err)
		os.Exit(1)
	}
}

func parse() (settings, error) {
	var s settings
	flag.StringVar(&s.target, "target", "", "what to dial, for example xds:///iris")
	flag.StringVar(&s.method, "method", "/inference.GRPCInferenceService/ModelInfer", "full name of the method")
	flag.StringVar(&s.message, "message", "", "file with the encoded request")
	flag.IntVar(&s.concurrency, "concurrency", 4, "loops that call at once")
	flag.Int64Var(&s.calls, "calls", 0, "calls in all; 0 calls until standard input is closed")
	flag.DurationVar(&s.deadline, "deadline", 5*time.Second, "time that a call has")
	flag.BoolVar(&s.isStream, "stream", false, "one bidirectional stream a loop; a call is a message and its answer")
	flag.BoolVar(&s.waitForReady, "wait-for-ready", false, "calls wait for a connection instead of failing")
	flag.Parse()
	switch {
	case flag.NArg() > 0:
		return s, fmt.Errorf("unknown argument %q", flag.Arg(0))
	case s.target == "":
		return s, errors.New("--target is missing")
	case s.message == "":
		return s, errors.New("--message is missing")
	case s.concurrency < 1 || s.calls < 0 || s.deadline <= 0:
		return s, errors.New("--concurrency and --deadline are above 0, --calls is not below")
	}
	return s, nil
}

func run() error {
	s, err := parse()
	if err != nil {
		return err
	}
	message, err := os.ReadFile(s.message)
	if err != nil {
		return fmt.Errorf("--message: %w", err)
	}
	channel, err := grpc.NewClient(s.target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodec(rawBytes{}),
			grpc.MaxCallRecvMsgSize(maxAnswerBytes),
			grpc.WaitForReady(s.waitForReady),
		))
	if err != nil {
		return fmt.Errorf("--target %s: %w", s.target, err)
	}
	defer channel.Close()
	out := json.NewEncoder(os.Stdout)
	sum, err := callAll(s, func() caller {
		every := request{channel: channel, method: s.method, message: message, deadline: s.deadline}
		if s.isStream {
			return &stream{request: every}
		}
		return unary{every}
	}, out)
	if err != nil {
		return err
	}
	return out.Encode(sum.summary())
}

// callAll runs the loops to their end. The error is that standard output is closed.
func callAll(s settings, newCaller func() caller, out *json.Encoder) (*figures, error) {
	stop := make(chan struct{})
	if s.calls == 0 {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(stop)
		}()
	}
	var (
		loops   sync.WaitGroup
		first   sync.Once
		failed  error
		begun   atomic.Int64
		figured = make([]*figures, s.concurrency)
	)
	for index := range figured {
		mine := newFigures()
		figured[index] = mine
		loops.Go(func() {
			caller := newCaller()
			defer caller.end()
			for s.calls == 0 || begun.Add(1) <= s.calls {
				began := time.Now()
				err := caller.call()
				took := time.Since(began)
				mine.add(err, took)
				first.Do(func() { failed = out.Encode(map[string]firstCall{"first": newFirstCall(err, took)}) })
				if !goesOn(stop, err) {
					return
				}
			}
		})
	}
	loops.Wait()
	sum := newFigures()
	for _, one := range figured {
		sum.merge(one)
	}
	return sum, failed
}

// goesOn says whether there is a next call, after a pause when one failed.
func goesOn(stop <-chan struct{}, failure error) bool {
	if failure != nil {
		select {
		case <-stop:
			return false
		case <-time.After(pauseAfterFailure):
			return true
		}
	}
	select {
	case <-stop:
		return false
	default:
		return true
	}
}
