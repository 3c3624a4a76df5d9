// Command control-plane is go-control-plane as a server that is told its resources over TCP: the peer of our own xDS
// server in benchmarks. It adds nothing to the library but the control port, and turns nothing of it off.
//
//	control-plane --cache snapshot|linear|mux --xds 127.0.0.1:18000 --control 127.0.0.1:17000
//
// The xDS port serves ADS and every type by itself, in both variants. When both ports listen, one line on standard
// output says where: {"xds":"127.0.0.1:18000","control":"127.0.0.1:17000"}. The lines of the control port are in
// control.go, the caches in caches.go. A client that asks before any resource came is told at once that there is none.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	cluster "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	runtime "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
)

const (
	// The library's example says so too: the default of grpc-go is small for a proxy with a stream per resource.
	maxStreams = 1_000_000
	// A client that comes back lists what it has: 100,000 names and hashes are some 10 MB.
	maxReceiveBytes = 256 << 20
	// Silence after which a client is asked whether it is there, and the time that it has on a busy machine.
	keepaliveTime    = 30 * time.Second
	keepaliveTimeout = 20 * time.Second
	// Clients may ask as often as this, with or without a stream.
	keepaliveMinTime = time.Second
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "control-plane:", err)
		os.Exit(1)
	}
}

func run() error {
	kind := flag.String("cache", "snapshot", "snapshot, linear (scoped routes only) or mux")
	xdsAddress := flag.String("xds", "127.0.0.1:18000", "address of the xDS server")
	controlAddress := flag.String("control", "127.0.0.1:17000", "address that takes resources")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	held, err := newStore(*kind)
	if err != nil {
		return err
	}
	xds, err := net.Listen("tcp", *xdsAddress)
	if err != nil {
		return fmt.Errorf("listen for xDS: %w", err)
	}
	control, err := net.Listen("tcp", *controlAddress)
	if err != nil {
		return fmt.Errorf("listen for resources: %w", err)
	}
	listening := map[string]string{"xds": xds.Addr().String(), "control": control.Addr().String()}
	if err := json.NewEncoder(os.Stdout).Encode(listening); err != nil {
		return fmt.Errorf("say where: %w", err)
	}
	failed := make(chan error, 2)
	go func() { failed <- newServer(held).Serve(xds) }()
	go func() { failed <- (&controlPort{store: held}).serve(control) }()
	return <-failed
}

// newServer keeps the library's legacy wildcard, which Envoys ask for.
func newServer(held store) *grpc.Server {
	served := grpc.NewServer(
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxReceiveBytes),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinTime, PermitWithoutStream: true}),
	)
	xds := server.NewServer(context.Background(), held.served(), nil)
	discovery.RegisterAggregatedDiscoveryServiceServer(served, xds)
	cluster.RegisterClusterDiscoveryServiceServer(served, xds)
	endpoint.RegisterEndpointDiscoveryServiceServer(served, xds)
	listener.RegisterListenerDiscoveryServiceServer(served, xds)
	route.RegisterRouteDiscoveryServiceServer(served, xds)
	route.RegisterScopedRoutesDiscoveryServiceServer(served, xds)
	secret.RegisterSecretDiscoveryServiceServer(served, xds)
	runtime.RegisterRuntimeDiscoveryServiceServer(served, xds)
	return served
}
