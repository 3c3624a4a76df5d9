// One call, unary or on a stream, with bytes that are encoded already.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A caller makes one call after the other, in one loop.
type caller interface {
	// call fails with a gRPC status.
	call() error
	end()
}

// rawBytes is a codec for messages that are encoded already; on the wire it is protobuf's.
type rawBytes struct{}

func (rawBytes) Name() string { return "proto" }

func (rawBytes) Marshal(message any) ([]byte, error) {
	bytes, ok := message.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("encode a %T: no bytes", message)
	}
	return *bytes, nil
}

func (rawBytes) Unmarshal(data []byte, message any) error {
	bytes, ok := message.(*[]byte)
	if !ok {
		return fmt.Errorf("decode a %T: no bytes", message)
	}
	*bytes = data
	return nil
}

// A request is what every call sends.
type request struct {
	channel  *grpc.ClientConn
	method   string
	message  []byte
	deadline time.Duration
}

type unary struct{ request }

func (u unary) call() error {
	within, cancel := context.WithTimeout(context.Background(), u.deadline)
	defer cancel()
	var answer []byte
	return u.channel.Invoke(within, u.method, &u.message, &answer)
}

func (unary) end() {}

// A stream sends the message and waits for its answer, on one stream while that holds.
type stream struct {
	request
	open   grpc.ClientStream
	cancel context.CancelFunc
}

func (s *stream) call() error {
	// The deadline is an answer's, not the stream's.
	within := context.Background()
	if s.open == nil {
		within, s.cancel = context.WithCancel(within)
	}
	timer := time.AfterFunc(s.deadline, s.cancel)
	err := s.exchange(within)
	isLate := !timer.Stop()
	if err != nil || isLate {
		s.cancel()
		s.open = nil
	}
	if err != nil && isLate {
		return status.Errorf(codes.DeadlineExceeded, "no answer within %s", s.deadline)
	}
	return err
}

// exchange opens the stream, when there is none, within a context of its own.
func (s *stream) exchange(within context.Context) error {
	if s.open == nil {
		opened, err := s.channel.NewStream(within, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, s.method)
		if err != nil {
			return err
		}
		s.open = opened
	}
	// A stream that is over says so when it sends, and why when it receives.
	if err := s.open.SendMsg(&s.message); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var answer []byte
	err := s.open.RecvMsg(&answer)
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Unknown, "the stream ended well and without an answer")
	}
	return err
}

// end lets the server end the stream, within the deadline.
func (s *stream) end() {
	if s.open == nil {
		return
	}
	timer := time.AfterFunc(s.deadline, s.cancel)
	defer timer.Stop()
	if s.open.CloseSend() == nil {
		var answer []byte
		_ = s.open.RecvMsg(&answer)
	}
	s.cancel()
}
