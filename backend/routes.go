package backend

import "slices"

// Route is what clients ask of an engine at some of its paths: work for a class, or
// calls that need no card.
type Route struct {
	Class   string   // heavy or light, a hint; empty: it needs no card
	Methods []string // none: any
	Paths   []string // patterns, as in `match.path`
	Socket  bool     // WebSockets, which are work while they are open
}

// The classes that an engine's work is for, where the file says no other.
const (
	Heavy = "heavy" // one at a time: images, video
	Light = "light" // several at once: text, speech, embeddings
)

var post = []string{"POST"}

// The paths of OpenAI's API that several engines have in common.
const (
	chatPath       = "/v1/chat/completions"
	completePath   = "/v1/completions"
	responsesPath  = "/v1/responses"
	messagesPath   = "/v1/messages"
	embeddingsPath = "/v1/embeddings"
	modelsPath     = "/v1/models"
)

// Routes are the engine's routes in the order in which they are tried; none: the engine is
// not known, or has no routes of its own.
func (b Config) Routes() []Route {
	p := presets[b.Preset]
	var all []Route
	if len(p.heavy) > 0 {
		all = append(all, Route{Class: Heavy, Methods: post, Paths: p.heavy})
	}
	if len(p.light) > 0 {
		all = append(all, Route{Class: Light, Methods: post, Paths: p.light})
	}
	if len(p.sockets) > 0 {
		all = append(all, Route{Class: p.socketClass, Methods: []string{"GET"}, Paths: p.sockets, Socket: true})
	}
	if len(p.free) > 0 {
		all = append(all, Route{Paths: p.free})
	}
	return all
}

// ModelLists are the paths at which the engine lists its models, in a form in which the
// lists of several servers can be merged.
func (b Config) ModelLists() []string {
	return slices.DeleteFunc([]string{modelsPath, "/api/tags"}, func(path string) bool {
		return !slices.Contains(presets[b.Preset].free, path)
	})
}
