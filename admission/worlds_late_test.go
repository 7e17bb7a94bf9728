package admission

import "testing"

// worldsOnceLate are worlds in which a head that truly fitted was late until the rule
// beside them held. Each is one of its kind.
var worldsOnceLate = []struct {
	seed uint64
	rule string
}{
	{800022762, "a trial that failed beside a neighbour that came after its start had no more room than the next reading shows"},
	{800024749, "what was too small is the room on the GPU where least was free"},
	{800048999, "what was too small is the room on the GPU where least was free, also where the ledger is unsure of the other"},
	{800039015, "the bar after a failure goes by what is in use after it, also of a run that fitted"},
	{800007380, "an unknown demand is not known by a failure in less room than the weights of its backend"},
	{800020380, "a backend whose process is back does not begin the three readings anew"},
	{800055373, "nor does one whose process is found to be gone"},
	{800021933, "a rest begins also where nothing runs and three readings do not agree yet"},
	{800033730, "a neighbour that changes at each reading does not hold a rest up"},
	{800043344, "what a backend holds bounds weights that are declared too large: no neighbour is in the way of its trial"},
	{800047511, "a run that has just failed beside another does not close the trial of what was declared"},
	{800023337, "a second rest for the same head comes after trial_after"},
	{800002394, "what a process has in use is shared by its runs"},
	{800010293, "a rest ends with the failure of the wake that it was for"},
}

func TestWorldsThatWereOnceLate(t *testing.T) {
	for _, x := range worldsOnceLate {
		w := newHiddenWorld(x.seed, false, newAdapter)
		w.play()
		if w.judge.late > 0 || w.broken != "" {
			t.Errorf("world %d: %d heads late, %v past the bound; %s; want: %s\n%s", x.seed, w.judge.late, w.judge.worst, w.broken, x.rule,
				tellWorld(x.seed, newAdapter, 40))
		}
	}
}
