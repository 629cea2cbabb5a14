// SPDX-License-Identifier: GPL-2.0-or-later

// sipgen is a closed-loop SIP load generator: each of its UDP sockets sends a request, waits for the final response,
// and sends the next. It prints one line of JSON. sipp itself is the limit at the rates that the benchmark reaches.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	target     = flag.String("target", "127.0.0.1:5060", "where to send, host:port")
	method     = flag.String("method", "OPTIONS", "SIP method")
	count      = flag.Int64("count", 1000, "requests to send")
	open       = flag.Int("open", 1, "requests open at once")
	ramp       = flag.Duration("ramp", 0, "time over which the sockets start")
	retransmit = flag.Duration("retransmit", 500*time.Millisecond, "when to send again")
	attempts   = flag.Int("attempts", 12, "transmissions of one request before it has failed")
)

var next, retransmitted atomic.Int64

// client sends requests over one socket until all are sent, and returns the latencies of those that were answered.
func client(connection *net.UDPConn) []time.Duration {
	var latencies []time.Duration
	for number := next.Add(1); number <= *count; number = next.Add(1) {
		started := time.Now()
		if exchange(connection, number) {
			latencies = append(latencies, time.Since(started))
		}
	}
	return latencies
}

// exchange sends one request and returns whether its final response is a success.
func exchange(connection *net.UDPConn, number int64) bool {
	callID := fmt.Sprintf("%d-%d@127.0.0.1", number, os.Getpid())
	request := request(connection.LocalAddr().String(), callID, number)
	buffer := make([]byte, 65536)
	for attempt := range *attempts {
		if attempt > 0 {
			retransmitted.Add(1)
		}
		connection.Write(request)
		connection.SetReadDeadline(time.Now().Add(*retransmit))
		for {
			size, err := connection.Read(buffer)
			if err != nil {
				break
			}
			response := string(buffer[:size])
			if strings.Contains(response, callID) && !strings.HasPrefix(response, "SIP/2.0 1") {
				return strings.HasPrefix(response, "SIP/2.0 2")
			}
		}
	}
	return false
}

func request(here, callID string, number int64) []byte {
	lines := []string{
		fmt.Sprintf("%s sip:u%d@%s SIP/2.0", *method, number, *target),
		fmt.Sprintf("Via: SIP/2.0/UDP %s;branch=z9hG4bK%d-%d", here, number, os.Getpid()),
		fmt.Sprintf("From: <sip:bench@example.test>;tag=%d", number),
		fmt.Sprintf("To: <sip:u%d@example.test>", number),
		"Call-ID: " + callID,
		"CSeq: 1 " + *method,
		fmt.Sprintf("Contact: <sip:bench@%s>", here),
		"Max-Forwards: 70",
		"Content-Length: 0",
	}
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n")
}

func main() {
	flag.Parse()
	address, err := net.ResolveUDPAddr("udp", *target)
	if err != nil {
		panic(err)
	}
	var mutex sync.Mutex
	var clients sync.WaitGroup
	var latencies []time.Duration
	started := time.Now()
	for index := range *open {
		connection, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, address)
		if err != nil {
			panic(err)
		}
		clients.Add(1)
		time.AfterFunc(time.Duration(index)**ramp/time.Duration(*open), func() {
			defer clients.Done()
			mine := client(connection)
			mutex.Lock()
			defer mutex.Unlock()
			latencies = append(latencies, mine...)
		})
	}
	clients.Wait()
	elapsed := time.Since(started).Seconds()
	slices.Sort(latencies)
	report := map[string]any{
		"answered": len(latencies), "failed": *count - int64(len(latencies)), "retransmitted": retransmitted.Load(),
		"elapsed_s": elapsed, "rate": float64(len(latencies)) / elapsed,
	}
	for name, share := range map[string]float64{"p50_ms": 0.5, "p99_ms": 0.99} {
		if len(latencies) > 0 {
			report[name] = float64(latencies[int(share*float64(len(latencies)-1))].Microseconds()) / 1000
		}
	}
	json.NewEncoder(os.Stdout).Encode(report)
}
