package proxy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

const (
	// listWithin is how long a backend may take to list its models.
	listWithin = 2 * time.Second
	// mostList bounds the length of its answer.
	mostList = 1 << 20
)

// mergeModels answers with the models of several backends in one list: the answer of the
// first backend that answers, with the models of the others appended. A backend that does
// not answer in time, or not with a list, is left out.
func (x *exchange) mergeModels() error {
	names := append([]string{x.route.Backend}, x.route.Merge...)
	answers := make([][]byte, len(names))
	header := make(http.Header)
	for _, name := range [...]string{"Authorization", "X-Api-Key", "Accept"} {
		if values := x.in.Header[name]; values != nil {
			header[name] = values
		}
	}
	ctx, cancel := context.WithTimeout(x.ctx, listWithin)
	defer cancel()
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			for _, b := range x.rules.backends[name] {
				call := backend.Call{Method: http.MethodGet, Target: x.in.URL.RequestURI()}
				if status, answer, err := b.Ask(ctx, call, "", header); err == nil && status == http.StatusOK && len(answer) <= mostList {
					answers[i] = answer
					return
				}
			}
		})
	}
	all.Wait()
	var aliases []routing.Alias
	for _, a := range x.rules.tables[x.listener].Aliases() {
		if slices.Contains(names, a.Backend) {
			aliases = append(aliases, a)
		}
	}
	merged := mergeLists(answers, aliases)
	if merged == nil {
		return refuse(admission.CodeBackendUnavailable, "none of %s lists its models", names)
	}
	h := x.out.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(merged)))
	x.out.WriteHeader(http.StatusOK)
	if x.in.Method != http.MethodHead {
		x.out.Write(merged)
	}
	return nil
}

// mergeLists puts lists of models together, in OpenAI's form (data) or Ollama's
// (models). A model that several list is in it once. A model that is listed is in it by
// its other names too. Nil: there is no list.
func mergeLists(answers [][]byte, aliases []routing.Alias) []byte {
	var first map[string]json.RawMessage
	key := ""
	models := []json.RawMessage{}
	seen := make(map[string]bool)
	for _, answer := range answers {
		var object map[string]json.RawMessage
		if json.Unmarshal(answer, &object) != nil {
			continue
		}
		of := "data"
		if _, isOpenAI := object[of]; !isOpenAI {
			of = "models"
		}
		var list []json.RawMessage
		if object[of] == nil || json.Unmarshal(object[of], &list) != nil || key != "" && of != key {
			continue
		}
		if first == nil {
			first, key = object, of
		}
		for _, model := range list {
			var m struct{ ID, Model, Name string }
			json.Unmarshal(model, &m)
			if name := m.ID + "\x00" + m.Model + "\x00" + m.Name; !seen[name] {
				seen[name] = true
				models = append(models, model)
			}
			for _, a := range aliases {
				listed := cmp.Or(m.ID, m.Model, m.Name)
				if (a.Model == listed || a.Model+":latest" == listed) && !seen["alias\x00"+a.Name] {
					seen["alias\x00"+a.Name] = true
					models = append(models, called(model, a.Name))
				}
			}
		}
	}
	if first == nil {
		return nil
	}
	first[key], _ = json.Marshal(models) // they were read from JSON a moment ago
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.Encode(first)
	return out.Bytes()
}

// called is the entry of a model with another name.
func called(model json.RawMessage, name string) json.RawMessage {
	var entry map[string]json.RawMessage
	if json.Unmarshal(model, &entry) != nil {
		return model
	}
	text, _ := json.Marshal(name) // a string is always written
	for _, key := range [...]string{"id", "model", "name"} {
		if _, there := entry[key]; there {
			entry[key] = text
		}
	}
	out, _ := json.Marshal(entry) // it was read from JSON a moment ago
	return out
}
