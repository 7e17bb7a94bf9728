package outofmemory

import (
	"strings"
	"testing"
)

// Text that is not known to be the client's is told from an error by its clause alone:
// what a model wrote comes in errors too.
func TestAnErrorIsAClauseOfItsOwn(t *testing.T) {
	for text, want := range map[string]bool{
		"CUDA out of memory":                                                  true,
		"CUDA out of memory.":                                                 true,
		"RuntimeError: CUDA out of memory":                                    true,
		"Error CUDA out of memory":                                            true,
		"failed with CUDA out of memory":                                      true,
		"worker 3: CUDA out of memory while drawing":                          true,
		"[rank0]: CUDA out of memory":                                         true,
		"step=3 CUDA out of memory":                                           true,
		"serve.py:12 CUDA out of memory":                                      true,
		"RuntimeError('CUDA out of memory')":                                  true,
		`{"detail": "CUDA out of memory"}`:                                    true,
		"CUDA out of memory error.":                                           true,
		"error: CUDA out of memory (rank 0)":                                  true,
		"Error processing input: CUDA out of memory":                          true,
		`upstream said {"error":"exit status 1:\nCUDA out of memory\nbye"}`:   true,
		`upstream said {"error":"\ttorch.OutOfMemoryError: CUDA\n"}`:          true,
		"x; torch.cuda.OutOfMemoryError":                                      true,
		"cannot read the output: why do I get CUDA out of memory":             false,
		"no JSON in the output: to fix CUDA out of memory, lower the batch":   false,
		"no JSON in the output: CUDA out of memory errors come from batches":  false,
		"no JSON in the output: CUDA out of memory means the card is full":    false,
		"no JSON in the output: CUDA out of memory?":                          false,
		"no JSON in the output: CUDA out of memory error messages are common": false,
		"no JSON in the output: CUDA out of memory 'again'":                   false,
		"a poster that says 'CUDA out of memory'":                             false,
		"a poster that says CUDA out of memory":                               false,
		"cannot open CUDA out of memory.png":                                  false,
		"cannot open: CUDA out of memory.png":                                 false,
		"invalid prompt: CUDA out of memory":                                  false,
		"bad input: CUDA out of memory":                                       false,
		`got {"prompt": "CUDA out of memory"}`:                                false,
		`got {"n": 1, 'negative_prompt': 'CUDA out of memory'}`:               false,
		"[type=string_too_long, input_value='CUDA out of memory', x]":         false,
		"prompt=CUDA out of memory":                                           false,
		"the word \"CUDA out of memory\" is not allowed":                      false,
		"XCUDA out of memory":                                                 false,
		"CUDA out of memoryless":                                              false,
		"except torch.cuda.OutOfMemoryError:":                                 false,
		"catch (OutOfMemoryError e) {":                                        false,
		"java.lang.OutOfMemoryError: Java heap space":                         false,
		"the out of memory killer":                                            false,
		"something: out of memory":                                            false, // whose?
	} {
		if r, ok := judge(500, "text/plain", text); ok != want {
			t.Errorf("%q: got %v %q, want %v", text, ok, r.Words, want)
		}
	}
}

func TestAPhraseIsFoundWhereALineIsCut(t *testing.T) {
	const step = maxLine - overlap - lead
	for n := 1; n < 3*maxLine; n++ {
		if at := n % step; at > 10 && at < step-70 && (n < maxLine-overlap-70 || n > maxLine-overlap+10) {
			continue // far from where a piece ends
		}
		text := strings.Repeat("x", n) + ": CUDA out of memory. Tried to allocate 1.00 GiB." + strings.Repeat(" ,", maxLine/2)
		if r, ok := judge(500, "text/plain", text); !ok || r.Tried != gib {
			t.Fatalf("behind %d bytes: got %v %+v", n, ok, r)
		}
		if r, ok := judge(500, "text/plain", strings.Repeat("x", n)+"CUDA out of memory."+strings.Repeat(" ,", maxLine/2)); ok {
			t.Fatalf("within a word behind %d bytes: got %+v", n, r)
		}
	}
}

func TestEscapesOfJSONAreRead(t *testing.T) {
	if r, ok := judge(500, "application/json", `{"\u0065rror":"\ud83d\ude00 the card\u0020is \"full\"\n"}`, `😀 the card is "full"`); !ok {
		t.Errorf("got %+v", r)
	}
}
