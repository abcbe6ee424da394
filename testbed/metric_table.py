"""Every metric, declared once: column, meaning, unit, TensorBoard tag. This module imports no slow modules."""

from typing import Literal, NamedTuple

#: The measured quantiles of the golden reward over prompts.
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
#: Prefix of the columns of measured facts about a run's world, data and proxy.
FACTS = "ground."
_WINDOWS = range(1, 11)
_NATS, _SHARE, _REWARD = "nats", "probability", "SFT standard deviations"


class Column(NamedTuple):
    """A column of the results.

    Attributes:
        name, meaning: of the column. label, unit: for claims, axes and reports; the default label is the name in words.
        tag: the name in TensorBoard; a column without a tag has no curve there. kind: of the values; numbers are 64-bit
            floats, a vector has one number a prompt.
    """

    name: str
    meaning: str = ""
    label: str = ""
    unit: str = "units"
    tag: str = ""
    kind: Literal["number", "whole", "text", "vector"] = "number"

    @property
    def words(self) -> str:
        """The label."""
        return self.label or self.name.removeprefix(FACTS).replace("_", " ")


#: Metrics of a policy (`testbed.metrics.evaluate`); definitions follow arXiv 2405.08448, appendices D and E.
POLICY = (
    Column("kl", "KL(policy || SFT), nats a response", "KL from SFT", _NATS, "budget/kl"),
    Column("kl_se", "its standard error over prompts", unit=_NATS),
    Column("win_rate", "share of the opponent's answers that the policy's answer beats by the golden reward, mean over "
           "prompts; a tie is a half; the opponent is the golden baseline, or the SFT policy if baseline.steps is 0",
           unit=_SHARE, tag="generation/win_rate"),
    Column("win_rate_se", "its standard error over prompts", unit=_SHARE),
    Column("golden_reward", "mean golden reward, in SFT standard deviations",
           unit=_REWARD, tag="generation/golden_reward"),
    Column("golden_reward_se", "its standard error over prompts", unit=_REWARD),
    *(Column(f"golden_reward_quantile_{i}", f"its {quantile:.0%} quantile over prompts", unit=_REWARD)
      for i, quantile in enumerate(QUANTILES, 1)),
    Column("proxy_reward", "mean margin of the proxy over the opponent's first answers, log-odds",
           unit="log-odds", tag="generation/proxy_reward"),
    Column("proxy_win_rate", "share of prompts on which that margin is positive",
           "win rate by the proxy", _SHARE, "generation/proxy_win_rate"),
    Column("data_accuracy",
           "share of D_golden's pairs that the policy's implicit reward orders as the golden reward does",
           "accuracy on D_golden", _SHARE, "classification/on_golden_data"),
    Column("self_accuracy", "the same on pairs of the policy's own samples",
           "accuracy on own samples", _SHARE, "classification/own_samples"),
    Column("winner_logprob_change", "of D_golden's preferred responses against SFT, nats a response",
           "log-probability of winners", _NATS, "likelihood/winners"),
    Column("loser_logprob_change", "of the others, nats a response",
           "log-probability of losers", _NATS, "likelihood/losers"),
    Column("entropy", "of the next token along the policy's samples, nats a token", "", _NATS, "generation/entropy"),
    Column("length", "tokens a response", unit="tokens", tag="generation/length"),
    Column("policy_checksum", "32 bits of all bits of the trained parameters: equal ones mean equal policies",
           "parameters", "share of checkpoints"),
    *(Column(f"stream_accuracy_{i}", f"as data_accuracy, in the {i}. tenth of a recorded online run's pairs",
             f"accuracy in window {i}", _SHARE) for i in _WINDOWS),
    Column("optimum_distance", "mean total variation between the policy and the exact optimum, where it can be listed",
           "distance to the exact optimum", "total variation"),
    Column("optimum_kl", "KL(policy || optimum), nats a response", unit=_NATS),
)  # fmt: skip
#: Metrics of the training steps.
TRAINING = (
    Column("train_loss", "mean loss of the steps since the evaluation before", tag="train/loss"),
    Column("gradient_norm", "mean norm of its gradient over these steps", tag="train/gradient_norm"),
)  # fmt: skip
#: Resources that a run has used.
LEDGER = (
    Column("pairs_seen", "pairs learnt from so far, repetitions included", unit="pairs"),
    Column("distinct_pairs", "of these, how many for the first time", unit="pairs"),
    Column("labels_bought", "of the distinct ones, labels that D_golden's labeler was asked for",
           "labels of D_golden or by people", "labels"),
    Column("judgements", "comparisons answered by the run's teacher so far", "judgements by the teacher", "judgements"),
    Column("tokens_sampled", "tokens written for it so far, end tokens included", unit="tokens"),
)  # fmt: skip
#: Outcomes on every evaluation prompt, in the prompts' order; `golden_reward` and `win_rate` are their means.
BY_PROMPT = (
    Column("golden_reward_by_prompt", "golden reward of the answer to each evaluation prompt", unit=_REWARD,
           kind="vector"),
    Column("win_by_prompt", "share of the opponent's answers to each evaluation prompt that the policy's answer beats; "
           "a tie is a half", unit=_SHARE, kind="vector"),
)  # fmt: skip
#: Every number that a run's programs measure at an evaluation, in the order of columns.
METRICS = (*POLICY, *TRAINING, *LEDGER)
#: Facts of a world that reports show (`analysis.site.inspection` explains them). Stages and sources measure other facts
#: too, which are shown under their column names.
WORLD = (
    Column(f"{FACTS}proxy_accuracy", unit=_SHARE),
    Column(f"{FACTS}label_noise", label="wrong labels", unit=_SHARE),
    Column(f"{FACTS}coverage", unit="unit of coverage"),
    Column(f"{FACTS}data_quality", unit=_REWARD),
    Column(f"{FACTS}baseline_reward", label="reward of the opponent", unit=_REWARD),
    Column(f"{FACTS}within_prompt_variance", label="variance within prompts"),
)
#: Other numbers that claims use. The highest win rate and golden reward of a run are not stored.
_OTHERS = (
    *(Column(f"{FACTS}proxy_stream_accuracy_{i}", "", f"the proxy's accuracy in window {i}", _SHARE) for i in _WINDOWS),
    Column("best_win_rate", "", "best win rate of a run", _SHARE),
    Column("best_golden_reward", "", "best golden reward of a run", _REWARD),
)  # fmt: skip
#: Every declared number by its name.
DECLARED = {column.name: column for column in (*METRICS, *WORLD, *_OTHERS)}


def declared(name: str) -> Column:
    """The declaration of a column; a column without one is described by its name."""
    return DECLARED.get(name) or Column(name)
