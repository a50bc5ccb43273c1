// delayproxy makes a local S3 server look like a remote one.
//
// It is a TCP proxy that understands only as much HTTP/1.1 as it must:
//   - the first response byte of a request is held back until -latency after
//     the last request byte (clients that pipeline are not foreseen);
//   - the bytes of one connection are paced to -conn-rate, those of all
//     connections together to -total-rate, each way;
//   - a new connection costs -connect.
//
// It counts requests by kind, and bytes each way: GET on the -stats address
// answers JSON, with ?reset=1 it resets them. A proxy at the level of HTTP was
// rejected: it would answer 100-continue, cut bodies and keep connections alive
// in ways of its own, which are part of what is measured.
//
// Once it listens, it prints one line: {"listen": ADDRESS, "stats": ADDRESS}.
package main

import (
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address for S3 clients")
	upstream := flag.String("upstream", "127.0.0.1:9000", "address of the S3 server")
	stats := flag.String("stats", "127.0.0.1:0", "address of the counters")
	latency := flag.Duration("latency", 25*time.Millisecond, "from the last request byte to the first response byte")
	connect := flag.Duration("connect", 2*time.Millisecond, "cost of a new connection")
	connRate := flag.Float64("conn-rate", 90e6, "bytes/s of one connection, each way (0: no limit)")
	totalRate := flag.Float64("total-rate", 312.5e6, "bytes/s of all connections, each way (0: no limit)")
	flag.Parse()

	clients, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	readers, err := net.Listen("tcp", *stats)
	if err != nil {
		log.Fatal(err)
	}
	p := &proxy{
		upstream: *upstream, latency: *latency, connect: *connect, connRate: *connRate,
		counts: newCounters(), up: newPace(*totalRate), down: newPace(*totalRate),
	}
	go func() { log.Fatal(http.Serve(readers, p.counts)) }()
	addresses := map[string]string{"listen": clients.Addr().String(), "stats": readers.Addr().String()}
	if err := json.NewEncoder(os.Stdout).Encode(addresses); err != nil {
		log.Fatal(err)
	}
	for {
		c, err := clients.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go p.serve(c)
	}
}
