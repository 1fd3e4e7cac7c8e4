package main

import "github.com/anishathalye/porcupine"

// The model: each key is a log. A send appends its id under the next number, and an id is appended once. What anybody
// is shown at a number, and what is read in the end, is what the log holds then.

// Op is one operation of a history, and one line of its file. Times are nanoseconds of one clock.
type Op struct {
	Kind   string   `json:"kind"` // send, see or read
	Key    string   `json:"key"`
	Client string   `json:"client"`
	Id     string   `json:"id,omitempty"`
	Seq    int      `json:"seq,omitempty"` // 0: the send has no effect
	Ids    []string `json:"ids,omitempty"`
	Call   int64    `json:"call"`
	Return *int64   `json:"return"` // null: its outcome is unknown to its client
}

// An appended id, with all that were appended before it. Logs share their beginnings, so a step costs no copy.
type entry struct {
	id     string
	seq    int
	before *entry
}

func (last *entry) length() int {
	if last == nil {
		return 0
	}
	return last.seq
}

func (last *entry) at(seq int) string {
	for one := last; one != nil && one.seq >= seq; one = one.before {
		if one.seq == seq {
			return one.id
		}
	}
	return ""
}

func (last *entry) holds(id string) bool {
	for one := last; one != nil; one = one.before {
		if one.id == id {
			return true
		}
	}
	return false
}

func (last *entry) equals(other *entry) bool {
	one := last
	for one != other && one != nil && other != nil && one.id == other.id {
		one, other = one.before, other.before
	}
	return one == other
}

func step(state, input, _ interface{}) (bool, interface{}) {
	last, op := state.(*entry), input.(Op)
	switch op.Kind {
	case "send":
		if op.Seq == 0 {
			return op.Return == nil, state // only an unknown outcome may have come to nothing
		}
		if op.Seq != last.length()+1 || last.holds(op.Id) {
			return false, state
		}
		return true, &entry{op.Id, op.Seq, last}
	case "see":
		return op.Id != "" && last.at(op.Seq) == op.Id, state
	case "read":
		return isLog(last, op.Ids), state
	}
	return false, state
}

func isLog(last *entry, ids []string) bool {
	one := last
	for n := len(ids); n > 0; n-- {
		if one == nil || one.id != ids[n-1] || one.seq != n {
			return false
		}
		one = one.before
	}
	return one == nil
}

func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	keys := map[string][]porcupine.Operation{}
	for _, operation := range history {
		key := operation.Input.(Op).Key
		keys[key] = append(keys[key], operation)
	}
	parts := make([][]porcupine.Operation, 0, len(keys))
	for _, part := range keys {
		parts = append(parts, part)
	}
	return parts
}

var model = porcupine.Model{
	Partition: byKey,
	Init:      func() interface{} { return (*entry)(nil) },
	Step:      step,
	Equal:     func(one, other interface{}) bool { return one.(*entry).equals(other.(*entry)) },
}
