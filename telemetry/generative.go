package telemetry

import (
	"cmp"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
)

// Attributes and metrics by the conventions for generative models, for requests whose path
// belongs to a model's API: https://github.com/open-telemetry/semantic-conventions-genai

// anyProvider is the provider of an unknown engine: the conventions' name of the API that
// most engines have.
const anyProvider = "openai"

// Operation is the conventions' name of the operation of a path of OpenAI's, Ollama's,
// Anthropic's or Gemini's API; empty: the path is none of these.
func (q *Request) Operation() string {
	if q == nil {
		return ""
	}
	return operationOf(q.pattern, q.url.Path)
}

func operationOf(pattern, path string) string {
	path = strings.TrimSuffix(path, "/")
	switch {
	case strings.HasSuffix(path, "/chat/completions"), strings.HasSuffix(path, "/api/chat"), strings.HasSuffix(path, "/messages"),
		strings.HasSuffix(path, "/responses"):
		return "chat"
	case strings.HasSuffix(path, "/completions"), strings.HasSuffix(path, "/api/generate"):
		return "text_completion"
	case strings.HasSuffix(path, "/embeddings"), strings.HasSuffix(path, "/api/embed"), strings.HasSuffix(path, "/embed"):
		return "embeddings"
	case strings.HasSuffix(path, ":generateContent"), strings.HasSuffix(path, ":streamGenerateContent"), strings.Contains(pattern, "/images/"):
		return "generate_content"
	}
	return ""
}

// generated records the times and tokens of a model's answer. Times begin at the request's
// arrival, because the client waits in the queue too.
func (q *Request) generated(at time.Time, operation string, e Ending, v verdict, use *ModelUse) {
	m := &q.t.metrics
	l := labels{kind: setModel, method: operation, scheme: cmp.Or(q.provider, anyProvider), model: q.t.knownModel(q.model)}
	if q.server != nil && use != nil {
		if use.Input >= 0 {
			q.server.add(attribute.Int(AttrInputTokens, use.Input))
		}
		if use.Output >= 0 {
			q.server.add(attribute.Int(AttrOutputTokens, use.Output))
		}
		q.server.add(attribute.Bool(AttrStream, use.Streamed))
	}
	total := l
	total.extra = v.error
	q.seconds(m.modelDuration, m.labelled(total), max(0, at.Sub(q.began)), at)
	if use == nil || v.result != ResultOK {
		return
	}
	if use.Input >= 0 || use.Output >= 0 {
		tokens := l
		tokens.kind = setTokens
		m.labelled(tokens).sum(float64(max(0, use.Input)), float64(max(0, use.Output)))
	}
	if !use.Streamed || e.FirstByte.IsZero() {
		return // all of it came at once: nothing is known of the first token
	}
	m.firstToken.Record(q.context(), max(0, e.FirstByte.Sub(q.began)).Seconds(), m.labelled(l).record...)
	if use.Output > 1 {
		m.perToken.Record(q.context(), max(0, at.Sub(e.FirstByte)).Seconds()/float64(use.Output-1), m.labelled(l).record...)
	}
}
