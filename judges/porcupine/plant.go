package main

import (
	"fmt"
	"math"
	"sort"
)

// Violations that are planted into an accepted history. A judge that accepts one of them judges nothing.

const againstTime = "an order against time"

// Each changes the history of one key, whose sends are given in the order of their numbers, and whose read in the end
// is the last argument.
var violations = map[string]func(sends []*Op, sees []*Op, read *Op) error{
	"a gap": func(sends, sees []*Op, read *Op) error {
		last := sends[len(sends)-1]
		for _, see := range sees {
			if see.Seq == last.Seq {
				see.Seq++
			}
		}
		last.Seq++
		return nil
	},
	"a number twice": func(sends, sees []*Op, read *Op) error {
		last := sends[len(sends)-1]
		for _, see := range sees {
			if see.Seq == last.Seq {
				see.Seq--
			}
		}
		last.Seq--
		read.Ids = read.Ids[:len(read.Ids)-1]
		return nil
	},
	"an id twice": func(sends, sees []*Op, read *Op) error {
		// The last took effect a second time as the first did: under its id.
		last := sends[len(sends)-1]
		for _, see := range sees {
			if see.Id == last.Id {
				see.Id = sends[0].Id
			}
		}
		last.Id = sends[0].Id
		read.Ids[len(read.Ids)-1] = last.Id
		return nil
	},
	againstTime: func(sends, sees []*Op, read *Op) error {
		for n, first := range sends {
			for _, second := range sends[n+1:] {
				if first.Return == nil || *first.Return >= second.Call {
					continue
				}
				// Exchanged everywhere, so that nothing but the times contradicts it.
				for _, see := range sees {
					switch see.Seq {
					case first.Seq:
						see.Id = second.Id
						see.Call, see.Return = read.Call, read.Return
					case second.Seq:
						see.Id = first.Id
					}
				}
				read.Ids[first.Seq-1], read.Ids[second.Seq-1] = second.Id, first.Id
				first.Seq, second.Seq = second.Seq, first.Seq
				return nil
			}
		}
		return fmt.Errorf("no send began after another had returned")
	},
}

// withoutTimes returns a copy in which all operations are concurrent.
func withoutTimes(history []Op) []Op {
	changed := append([]Op{}, history...)
	for n := range changed {
		changed[n].Call, changed[n].Return = 0, new(int64)
		*changed[n].Return = math.MaxInt64
	}
	return changed
}

// plant returns a copy of a history with one violation in its key of most sends.
func plant(kind string, history []Op) ([]Op, error) {
	counts := map[string]int{}
	for _, op := range history {
		if op.Kind == "send" && op.Seq > 0 {
			counts[op.Key]++
		}
	}
	key := ""
	for one, count := range counts {
		if count > counts[key] || (count == counts[key] && one < key) {
			key = one
		}
	}
	if counts[key] < 2 {
		return nil, fmt.Errorf("no key has two sends")
	}
	changed := append([]Op{}, history...)
	var sends, sees []*Op
	var read *Op
	for n := range changed {
		op := &changed[n]
		if op.Key != key {
			continue
		}
		switch {
		case op.Kind == "send" && op.Seq > 0:
			sends = append(sends, op)
		case op.Kind == "see":
			sees = append(sees, op)
		case op.Kind == "read":
			op.Ids = append([]string{}, op.Ids...)
			read = op
		}
	}
	if read == nil {
		return nil, fmt.Errorf("the log of %s is not read in the end", key)
	}
	sort.Slice(sends, func(a, b int) bool { return sends[a].Seq < sends[b].Seq })
	return changed, violations[kind](sends, sees, read)
}
