"""What the columns of the results mean: the table that ``testbed export`` writes, a row a run and evaluation."""

from sweeps.store.parquet import ANSWERS, FACTS, REWARD_QUANTILES
from testbed.metrics import QUANTILES

IDENTITY: dict[str, str] = {
    "study": "the study",
    "arm": "the arm: one side of the study's comparison",
    "task": "kind of the world",
    "seed": "repetition: a redraw of world, data and training",
    "run": "hash of the run's whole config, seed included, and of files it depends on; a run that several arms "
    "or studies have stands in each",
    "code": "hash of the testbed's code that made the run; empty for runs of versions that did not store it",
    "evaluation": "number of the evaluation, from 0 (before training)",
    "step": "training steps before it",
    "diverged_step": "step at which the run's numbers stopped being finite, for all its rows; -1 if they never did",
}
MEASURES: dict[str, str] = {
    "kl": "KL(policy || SFT), nats a response",
    "kl_se": "its standard error over prompts",
    "win_rate": "share of prompts won against the golden baseline by the golden reward; a tie is a half",
    "win_rate_se": "its standard error over prompts",
    "golden_reward": "mean golden reward, in SFT standard deviations",
    "golden_reward_se": "its standard error over prompts",
    **{
        name: f"its {quantile:.0%} quantile over prompts"
        for name, quantile in zip(REWARD_QUANTILES, QUANTILES, strict=True)
    },
    "proxy_reward": "mean margin of the proxy over the golden baseline's answers, log-odds",
    "proxy_win_rate": "share of prompts on which that margin is positive",
    "data_accuracy": "share of D_golden's pairs that the policy's implicit reward orders as the golden reward does",
    "self_accuracy": "the same on pairs of the policy's own samples",
    "winner_logprob_change": "of D_golden's preferred responses against SFT, nats a response",
    "loser_logprob_change": "of the others, nats a response",
    "entropy": "of the next token along the policy's samples, nats a token",
    "length": "tokens a response",
    "policy_checksum": "32 bits of all bits of the trained parameters: equal ones mean equal policies",
    **{
        f"stream_accuracy_{tenth}": f"as data_accuracy, in the {tenth}. tenth of a recorded online run's pairs"
        for tenth in range(1, 11)
    },
    "optimum_distance": "mean total variation between the policy and the exact optimum, where it can be listed",
    "optimum_kl": "KL(policy || optimum), nats a response",
    "train_loss": "loss of the latest step",
    "gradient_norm": "norm of its gradient",
    "pairs_seen": "pairs learnt from so far, repetitions included",
    "distinct_pairs": "of these, how many for the first time",
    "labels_bought": "of the distinct ones, labels that D_golden's labeler was asked for",
    "judgements": "comparisons answered by the run's teacher so far",
    "tokens_sampled": "tokens written for it so far, end tokens included",
    "prompts": "prompts that win rate and rewards are means over",
    ANSWERS: "prompts and what the policy answers, at the first and the last evaluation: JSON, a list of pairs",
    "stack": "runs that shared a device with it",
    "devices": "devices that they were spread over",
}
#: Families of columns: of each there are as many as the studies have.
FAMILIES: dict[str, str] = {
    "PATH": "each swept path of the config, such as loss.beta, with the run's value; empty where an arm has none",
    f"{FACTS}NAME": "measured facts of the world that the run stands on, such as ground.proxy_accuracy",
    "config": "the run's whole config as JSON, seed included; with --configs",
}
MEANINGS: dict[str, str] = {**IDENTITY, **MEASURES, **FAMILIES}


def ordered(names: list[str]) -> list[str]:
    """Names of columns: what identifies a row, swept paths, measures, facts, the config."""
    known = {*IDENTITY, *MEASURES, "config"}
    facts = sorted(name for name in names if name.startswith(FACTS))
    swept = [name for name in names if name not in known and name not in facts]
    order = [*IDENTITY, *swept, *MEASURES, *facts, "config"]
    return [name for name in order if name in names]
