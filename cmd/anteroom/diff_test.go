package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCheckSaysWhatChangesForWhom(t *testing.T) {
	old := write(t, contested)
	changed := strings.NewReplacer("slots: 4, vram: 1GiB", "slots: 8, vram: 2GiB", "path: /chat}", "path: [/chat, /talk]}",
		"resident: 2GiB", "resident: 3GiB", "name: words", "name: questions").Replace(contested)
	now := write(t, "admin: {token: "+"abc"+"}\n"+changed)
	code, stdout, stderr := anteroom("check", "--diff", old, now)
	if code != 0 || stderr != "" {
		t.Fatalf("%d, %s", code, stderr)
	}
	for _, want := range []string{
		"GET /talk\n", // past admission before and after, and so:
		"POST /chat\n    before: class chat of talker, takes 1GiB\n    after:  class chat of talker, takes 2GiB\n",
		"POST /talk\n    before: past admission to talker\n    after:  class chat of talker, takes 2GiB\n",
		"backends.painter.resident: 2GiB → 3GiB (for pictures)\n",
		"classes.chat.slots: 4 → 8 (for words, questions)\n",
		"routes[words]: gone (for words)\n", "routes[questions]: added (for questions)\n",
		"admin.token: \"\" → (set)\n",
	} {
		if has := strings.Contains(stdout, want); has == strings.HasPrefix(want, "GET") {
			t.Errorf("%q: %v in\n%s", want, has, stdout)
		}
	}
	_, stdout, _ = anteroom("check", "--json", "--diff", old, now)
	var d difference
	if err := json.Unmarshal([]byte(stdout), &d); err != nil || len(d.Requests) != 2 || len(d.Settings) < 6 || d.Settings[0].For == nil {
		t.Errorf("%v, %+v", err, d)
	}
	if _, stdout, _ := anteroom("check", "--diff", old, old); stdout != "nothing changes\n" {
		t.Errorf("of a file and itself: %s", stdout)
	}
	secret := func(s string) string { return write(t, "admin: {token: "+s+"}\n"+contested) }
	if _, stdout, _ := anteroom("check", "--diff", secret("open-sesame"), secret("close-sesame")); stdout != "admin.token: (hidden) → (hidden)\n" {
		t.Errorf("of a secret: %s", stdout)
	}
	if code, _, stderr := anteroom("check", "--diff", old, write(t, "lisen: x\n")); code != 1 || !strings.Contains(stderr, "lisen: unknown key") {
		t.Errorf("of a wrong file: %d, %s", code, stderr)
	}
	if code, _, stderr := anteroom("check", "--diff", old); code != 2 || !strings.Contains(stderr, "1 argument: want 2") {
		t.Errorf("of one file: %d, %s", code, stderr)
	}
	if code, _, stderr := anteroom("check", old); code != 2 || !strings.Contains(stderr, "A file is named by -c: anteroom check -c "+old) {
		t.Errorf("without -c: %d, %s", code, stderr)
	}
}
