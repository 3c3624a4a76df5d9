// The caches of the library, each the way its documentation has it, and how a change gets into them.

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// A store is one of the library's caches, and how a change gets into it.
type store interface {
	served() cache.Cache
	// apply returns when every open watch has its response. Nobody else applies meanwhile.
	apply(whole change) error
}

// newStore makes a cache by the name that it has on the command line.
//
//   - snapshot: the SnapshotCache with one snapshot that all nodes share. Each change is a new snapshot,
//     of which the cache encodes and hashes every resource while a delta client watches.
//   - mux: a LinearCache for each type behind a MuxCache, the library's own way to serve several types from them.
//   - linear: one LinearCache of scoped routes and nothing before it. The cache is of one type: a client that asks for
//     another loses its stream.
//
// A LinearCache sends SotW clients only the scoped routes that changed, and Envoy takes what it is sent for all of
// them: give Envoys the delta variant.
func newStore(kind string) (store, error) {
	switch kind {
	case "snapshot":
		return newSnapshots()
	case "mux":
		return newLinears(typeURLs()...), nil
	case "linear":
		return newLinears(resource.ScopedRouteType), nil
	default:
		return nil, fmt.Errorf("--cache %q: it is snapshot, linear or mux", kind)
	}
}

// typeURLs are the types of the library, in the order in which the protocol has them sent.
func typeURLs() []string {
	var urls []string
	for index := range types.UnknownType {
		if url, err := cache.GetResponseTypeURL(index); err == nil {
			urls = append(urls, url)
		}
	}
	return urls
}

// everyNode is the key of the one snapshot.
const everyNode = "every"

type oneForAll struct{}

func (oneForAll) ID(*core.Node) string { return everyNode }

type snapshots struct {
	cache   cache.SnapshotCache
	current *cache.Snapshot
	changes uint64
}

// newSnapshots leaves the cache's ADS flag off. With it a SotW client that names resources is not answered until it
// names all that there are, which those that want one of many (gRPC) never do; delta watches are answered all the
// same, only not ordered by type.
func newSnapshots() (*snapshots, error) {
	made := &snapshots{cache: cache.NewSnapshotCache(false, oneForAll{}, nil), current: &cache.Snapshot{}}
	// The empty snapshot: a client is told that there is nothing, as the linear caches tell it.
	for index := range made.current.Resources {
		made.current.Resources[index] = cache.NewResources("0", nil)
	}
	if err := made.cache.SetSnapshot(context.Background(), everyNode, made.current); err != nil {
		return nil, fmt.Errorf("set the first snapshot: %w", err)
	}
	return made, nil
}

func (s *snapshots) served() cache.Cache { return s.cache }

// apply makes a snapshot that shares what did not change with the one before, so that no other type is sent again.
func (s *snapshots) apply(whole change) error {
	s.changes++
	next := &cache.Snapshot{Resources: s.current.Resources}
	for url, part := range whole {
		index := cache.GetResponseType(url)
		items := maps.Clone(next.Resources[index].Items)
		for name, value := range part.puts {
			items[name] = types.ResourceWithTTL{Resource: value}
		}
		for name := range part.removals {
			delete(items, name)
		}
		version := part.version
		if version == "" {
			version = strconv.FormatUint(s.changes, 10)
		}
		next.Resources[index] = cache.Resources{Version: version, Items: items}
	}
	s.current = next
	if err := s.cache.SetSnapshot(context.Background(), everyNode, next); err != nil {
		return fmt.Errorf("set the snapshot: %w", err)
	}
	return nil
}

// linears gives no versions: a LinearCache counts its own.
type linears struct {
	urls   []string
	byType map[string]*cache.LinearCache
}

func newLinears(urls ...string) *linears {
	made := &linears{urls: urls, byType: make(map[string]*cache.LinearCache, len(urls))}
	for _, url := range urls {
		made.byType[url] = cache.NewLinearCache(url)
	}
	return made
}

func (l *linears) served() cache.Cache {
	if len(l.urls) == 1 {
		return l.byType[l.urls[0]]
	}
	caches := make(map[string]cache.Cache, len(l.byType))
	for url, one := range l.byType {
		caches[url] = one
	}
	return &cache.MuxCache{
		Classify:      func(request *cache.Request) string { return request.GetTypeUrl() },
		ClassifyDelta: func(request *cache.DeltaRequest) string { return request.GetTypeUrl() },
		Caches:        caches,
	}
}

func (l *linears) apply(whole change) error {
	for url := range whole {
		if l.byType[url] == nil {
			return fmt.Errorf("type: %q is not served by this cache", url)
		}
	}
	for _, url := range l.urls {
		part := whole[url]
		if part == nil {
			continue
		}
		if err := l.byType[url].UpdateResources(part.puts, slices.Collect(maps.Keys(part.removals))); err != nil {
			return fmt.Errorf("update the resources of %s: %w", url, err)
		}
	}
	return nil
}
