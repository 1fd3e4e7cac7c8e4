// Checks histories of the fault suite with Porcupine, https://github.com/anishathalye/porcupine: is there an order of
// all operations that agrees with their times, and in which every log is gap-free and holds each id once?
//
// Its arguments are files of one history each, a JSON object a line. It writes an outcome for each of them, and for
// each violation that it plants into the largest: "ok" where Porcupine refuses it.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// No history of the suite takes a second; one that takes longer is undecided, which is no "ok".
const limit = 20 * time.Second

func main() {
	output := flag.String("output", "", "where to write the outcomes")
	flag.Parse()
	cases := map[string]string{}
	var largest []Op
	for _, path := range flag.Args() {
		history, err := read(path)
		if err != nil {
			fail(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".jsonl")
		result := check(history)
		cases["accepts "+name] = map[porcupine.CheckResult]string{
			porcupine.Ok: "ok", porcupine.Illegal: "refused", porcupine.Unknown: "undecided",
		}[result]
		if result == porcupine.Ok && len(history) > len(largest) {
			largest = history
		}
	}
	for kind := range violations {
		cases["refuses "+kind] = refuses(kind, largest)
	}
	written, err := json.MarshalIndent(map[string]interface{}{"cases": cases}, "", " ")
	if err == nil {
		err = os.WriteFile(*output, written, 0o644)
	}
	if err != nil {
		fail(err)
	}
}

func refuses(kind string, history []Op) string {
	planted, err := plant(kind, history)
	if err != nil {
		return "not planted: " + err.Error()
	}
	switch check(planted) {
	case porcupine.Unknown:
		return "undecided"
	case porcupine.Ok:
		return "accepted"
	}
	if kind == againstTime && check(withoutTimes(planted)) != porcupine.Ok {
		return "refused, and not for its times"
	}
	return "ok"
}

func check(history []Op) porcupine.CheckResult {
	clients := map[string]int{}
	operations := make([]porcupine.Operation, len(history))
	for n, op := range history {
		if _, known := clients[op.Client]; !known {
			clients[op.Client] = len(clients)
		}
		end := int64(math.MaxInt64)
		if op.Return != nil {
			end = *op.Return
		}
		operations[n] = porcupine.Operation{ClientId: clients[op.Client], Input: op, Call: op.Call, Return: end}
	}
	return porcupine.CheckOperationsTimeout(model, operations, limit)
}

func read(path string) ([]Op, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var history []Op
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20) // a read in the end names all ids of its log
	for lines.Scan() {
		var op Op
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		history = append(history, op)
	}
	return history, lines.Err()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
