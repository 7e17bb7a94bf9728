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
	{920017617, "memory is freed for one head at a time on a GPU, also by rule 8"},
	{920058967, "nothing is unloaded for a head while its GPU rests for another"},
	{920170312, "what others are believed to hold for sure is in doubt after twice trial_after"},
	{920144996, "and what room was too small, where nobody knows how large it was"},
	{980151210, "and what runs of one size differ by"},
	{980136634, "and weights that nobody declared, while they are not held"},
	{920162124, "what is added to a measured demand is in doubt"},
	{920060299, "no weights above the declared ones are asked for where a neighbour is in the way of a trial"},
	{950043588, "nor those that nobody declared"},
	{920068300, "a failure whose evidence has moved once does not bar any more"},
	{920105128, "what others held at a failure is what the answer says"},
	{920009270, "a failure on two GPUs does not bar once memory is free on one of them"},
	{920133863, "a figure of a process that is a reading old does not make the room larger that was too small"},
	{920186029, "a failure counts for less long where somebody else's memory may have gone after it"},
	{920108987, "what has failed, and would fail again, reserves nothing"},
	{920148790, "a wake that failed for want of memory is tried again once memory is free"},
	{920108213, "one that failed because the process was gone, once it is back"},
	{990083981, "a failure counts for less long where somebody else's memory may have gone after it, also if its answer told what room it had"},
	{780025310, "and where work of ours has moved memory since, and totals alone tell what its backend holds"},
	{780090625, "what runs return late is not taken for what the run after them takes"},
	{2601002327, "a backend on a GPU that is not at rest is not told to unload, by rule 8, for the head that it was woken for"},
	{2500011912, "what room was too small is in doubt after twice trial_after also for an unknown demand: all may be its own"},
	{2401006642, "all may be its own, also where weights that nobody declared are held by it, and by belief nothing is"},
	{2302005546, "what others held at a failure is what the driver says, also if a neighbour is gone a second later"},
	{2102003290, "what running work may still take is not taken at rest"},
	{2200007540, "a head that lacks 0.2 GiB of what rule 5 asks for"},
	{2703009394, "a wake that failed where there seemed to be room is tried again once less is in use"},
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
