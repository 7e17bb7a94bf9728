package simulation

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// TEI is Hugging Face's text-embeddings-inference with a model that embeds.
func TEI() Kind {
	k := tei("BAAI/bge-large-en-v1.5", map[string]any{"embedding": map[string]string{"pooling": "cls"}})
	k.Name, k.Does = "tei", "text-embeddings-inference with an embedding model"
	return k
}

// Rerank is the same server with a model that ranks texts by a question.
func Rerank() Kind {
	k := tei("BAAI/bge-reranker-large", map[string]any{"reranker": map[string]any{
		"id2label": map[string]string{"0": "LABEL_0"}, "label2id": map[string]int{"LABEL_0": 0},
	}})
	k.Name, k.Does = "rerank", "text-embeddings-inference with a reranking model"
	return k
}

// tei is what both have in common: the routes are always there, and those that the model
// is not for answer 424.
func tei(model string, kind map[string]any) Kind {
	return Kind{
		Model: model, Weights: admission.GiB, Load: 2 * time.Second, PerRun: 512 * admission.MiB,
		Concurrency: 512,
		Shortest:    50 * time.Millisecond, Longest: 200 * time.Millisecond,
		Aborts: true,
		Full:   says(`Inference error: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")`),
		Traps:  []string{ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			switch {
			case kind == serverError && status == http.StatusInternalServerError:
				status, kind = http.StatusFailedDependency, "Backend"
			case kind == invalidError:
				status, kind = http.StatusUnprocessableEntity, "Validation"
			case status == http.StatusServiceUnavailable:
				kind = "Unhealthy"
			}
			answer(w, status, map[string]string{"error": message, "error_type": kind})
		},
		Routes: func(e *Engine, routes *Routes) { teiRoutes(e, routes, kind) },
	}
}

func teiRoutes(e *Engine, routes *Routes, kind map[string]any) {
	t := &teiServer{Engine: e, model: e.models[0]}
	for _, path := range []string{"/health", "/ping", "/{$}"} {
		routes.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			if !e.up.Load() {
				e.fail(w, http.StatusServiceUnavailable, serverError, "unhealthy")
			}
		})
	}
	routes.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{
			"model_id": t.model.Name, "model_sha": nil, "model_dtype": "float16", "served_model_name": t.model.Name, "model_type": kind,
			"max_concurrent_requests": 512, "max_input_length": 512, "max_batch_tokens": 16384, "max_batch_requests": nil,
			"max_client_batch_size": 32, "auto_truncate": true, "tokenization_workers": 8,
			"version": "1.9.3", "sha": nil, "docker_label": nil,
		})
	})
	openAPI(e, routes, "/api-doc/openapi.json", "Text Embeddings Inference", "1.9.3")
	metrics(e, routes, "te_queue_size", "te_batch_next_size")
	_, embeds := kind["embedding"]
	only := func(able bool, message string, handler http.HandlerFunc) http.HandlerFunc {
		if able {
			return handler
		}
		return func(w http.ResponseWriter, r *http.Request) {
			if _, ok := e.body(w, r); ok {
				e.fail(w, http.StatusFailedDependency, "Backend", message)
			}
		}
	}
	const noEmbedding, noClassifier, noRanker = "Model is not an embedding model", "Model is not a classifier model", "model is not a re-ranker model"
	routes.HandleFunc("POST /embed", only(embeds, noEmbedding, t.embed(func(text string) any { return vector(text) })))
	routes.HandleFunc("POST /embed_all", only(embeds, noEmbedding, t.embed(func(text string) any { return [][]float32{vector(text)} })))
	routes.HandleFunc("POST /embed_sparse", only(false, "Model is not an embedding model with SPLADE pooling", nil))
	routes.HandleFunc("POST /similarity", only(embeds, noEmbedding, t.similarity))
	for _, path := range []string{"/embeddings", "/v1/embeddings"} {
		routes.HandleFunc("POST "+path, only(embeds, noEmbedding, e.embeddings))
	}
	routes.HandleFunc("POST /predict", only(!embeds, noClassifier, t.predict))
	routes.HandleFunc("POST /rerank", only(!embeds, noRanker, t.rerank))
	routes.HandleFunc("POST /tokenize", t.tokenize)
}

type teiServer struct {
	*Engine
	model *model
}

func (t *teiServer) embed(of func(text string) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var a struct {
			Inputs texts `json:"inputs"`
		}
		length, ok := t.read(w, r, &a)
		switch {
		case !ok:
			return
		case len(a.Inputs) == 0:
			answer(w, http.StatusBadRequest, map[string]string{"error": "`inputs` cannot be empty", "error_type": "Empty"})
			return
		case len(a.Inputs) > 32:
			t.fail(w, http.StatusUnprocessableEntity, invalidError, "batch size > maximum allowed batch size 32")
			return
		}
		t.whole(w, r, t.model, length, func() any {
			list := []any{}
			for _, text := range a.Inputs {
				list = append(list, of(text))
			}
			return list
		})
	}
}

func (t *teiServer) similarity(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Inputs struct {
			Source    string   `json:"source_sentence"`
			Sentences []string `json:"sentences"`
		} `json:"inputs"`
	}
	length, ok := t.read(w, r, &a)
	if !ok {
		return
	}
	t.whole(w, r, t.model, length, func() any {
		list := []float64{}
		for _, s := range a.Inputs.Sentences {
			list = append(list, similar(a.Inputs.Source, s))
		}
		return list
	})
}

func (t *teiServer) predict(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Inputs any `json:"inputs"`
	}
	if length, ok := t.read(w, r, &a); ok {
		t.whole(w, r, t.model, length, func() any { return []any{map[string]any{"score": 0.5, "label": "LABEL_0"}} })
	}
}

// rank is a text and how well it answers.
type rank struct {
	index int
	text  string
	score float64
}

// ranked are the texts, the best first.
func ranked(query string, of []string) []rank {
	list := make([]rank, len(of))
	for i, text := range of {
		list[i] = rank{i, text, (1 + similar(query, text)) / 2}
	}
	slices.SortStableFunc(list, func(a, b rank) int { return cmp.Compare(b.score, a.score) })
	return list
}

func (t *teiServer) rerank(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Query  string   `json:"query"`
		Texts  []string `json:"texts"`
		Return bool     `json:"return_text"`
	}
	length, ok := t.read(w, r, &a)
	switch {
	case !ok:
		return
	case len(a.Texts) == 0:
		answer(w, http.StatusBadRequest, map[string]string{"error": "`texts` cannot be empty", "error_type": "Empty"})
		return
	}
	t.whole(w, r, t.model, length, func() any {
		list := []any{}
		for _, k := range ranked(a.Query, a.Texts) {
			one := map[string]any{"index": k.index, "score": k.score}
			if a.Return {
				one["text"] = k.text
			}
			list = append(list, one)
		}
		return list
	})
}

// tokenize needs no card.
func (t *teiServer) tokenize(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Inputs texts `json:"inputs"`
	}
	if _, ok := t.read(w, r, &a); !ok {
		return
	}
	list := []any{}
	for _, text := range a.Inputs {
		list = append(list, []any{map[string]any{"id": len(text), "text": text, "special": false, "start": 0, "stop": len(text)}})
	}
	answer(w, http.StatusOK, list)
}

// Infinity is Infinity with a model that embeds and one that ranks, which is loaded by its
// first request. Its routes have no /v1 before them, unless it is started with a prefix.
func Infinity() Kind {
	return Kind{
		Name: "infinity", Does: "Infinity with a model that embeds and one that ranks", Model: "BAAI/bge-small-en-v1.5", Owner: "infinity",
		Weights: admission.GiB, Load: 2 * time.Second, PerRun: 512 * admission.MiB,
		Others:      []Model{{Name: "mixedbread-ai/mxbai-rerank-xsmall-v1", Weights: admission.GiB, Load: 2 * time.Second, PerRun: 512 * admission.MiB}},
		Concurrency: 32,
		Shortest:    50 * time.Millisecond, Longest: 200 * time.Millisecond,
		Always: []string{ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			if kind == invalidError {
				failFastAPI(w, status, kind, message)
				return
			}
			if kind == serverError && status == http.StatusInternalServerError {
				message = "InternalServerError: " + message
			}
			answer(w, status, map[string]any{"error": map[string]any{"message": message, "type": nil, "param": nil, "code": status}})
		},
		Routes: infinityRoutes,
	}
}

func infinityRoutes(e *Engine, routes *Routes) {
	routes.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		if e.up.Load() {
			answer(w, http.StatusOK, map[string]float64{"unix": float64(e.clock.Now().UnixMilli()) / 1000})
		} else {
			e.health(w, r)
		}
	})
	able := func(m *model) string {
		if m == e.models[0] {
			return "embed"
		}
		return "rerank"
	}
	routes.HandleFunc("GET /models", func(w http.ResponseWriter, _ *http.Request) {
		data := []any{}
		for _, m := range e.models {
			data = append(data, map[string]any{
				"id": m.Name, "object": "model", "created": 1764547200, "owned_by": e.kind.Owner, "backend": "torch",
				"stats":        map[string]any{"queue_fraction": 0.0, "queue_absolute": 0, "results_pending": e.atWork(m), "batch_size": 32},
				"capabilities": []string{able(m)},
			})
		}
		answer(w, http.StatusOK, map[string]any{"object": "list", "data": data})
	})
	openAPI(e, routes, "/openapi.json", "♾️ Infinity - Embedding Inference Server", "0.0.77")
	metrics(e, routes, "http_requests_inprogress")
	routes.HandleFunc("POST /embeddings", e.embeddings)
	routes.HandleFunc("POST /rerank", func(w http.ResponseWriter, r *http.Request) {
		var a struct {
			Model     string   `json:"model"`
			Query     string   `json:"query"`
			Documents []string `json:"documents"`
			Return    bool     `json:"return_documents"`
			Top       int      `json:"top_n"`
		}
		m, length, ok := e.readNamed(w, r, &a, &a.Model)
		switch {
		case !ok:
			return
		case able(m) != "rerank":
			e.fail(w, http.StatusBadRequest, serverError, "ModelNotDeployedError: model=`"+m.Name+"` does not support `rerank`.")
			return
		}
		e.whole(w, r, m, length, func() any {
			list, tokens := []any{}, 0
			for _, k := range ranked(a.Query, a.Documents) {
				tokens += len(k.text)/4 + 1
				one := map[string]any{"index": k.index, "relevance_score": k.score, "document": nil}
				if a.Return {
					one["document"] = k.text
				}
				if a.Top == 0 || len(list) < a.Top {
					list = append(list, one)
				}
			}
			return map[string]any{
				"object": "rerank", "results": list, "model": m.Name, "id": "infinity-" + newID(), "created": e.clock.Now().Unix(),
				"usage": map[string]int{"prompt_tokens": tokens, "total_tokens": tokens},
			}
		})
	})
}
