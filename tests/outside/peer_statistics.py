"""What quantstats and empyrical say of return series given on standard input, as JSON on standard output."""

import json
import sys
import warnings

import empyrical
import numpy as np
import pandas as pd
import quantstats.stats as qs

warnings.simplefilter("ignore")
YEAR = 365


def figures(returns: list[float]) -> dict[str, dict[str, float]]:
    series = pd.Series(returns, index=pd.date_range("2024-01-01", periods=len(returns), freq="D"))
    values = np.array(returns)
    return {
        "quantstats": {
            "total_return": qs.comp(series),
            "annual_return": qs.cagr(series, periods=YEAR),
            "annual_volatility": qs.volatility(series, periods=YEAR),
            "sharpe": qs.sharpe(series, periods=YEAR),
            "sortino": qs.sortino(series, periods=YEAR),
            "calmar": qs.calmar(series, periods=YEAR),
            "max_drawdown": qs.max_drawdown(series),
            "ulcer_index": qs.ulcer_index(series),
            "omega": qs.omega(series, periods=YEAR),
            "tail_ratio": qs.tail_ratio(series),
            "skewness": qs.skew(series),
            "kurtosis": qs.kurtosis(series),
            "profit_factor": qs.profit_factor(series),
            "win_rate": qs.win_rate(series),
            "payoff_ratio": qs.payoff_ratio(series),
            "probabilistic_sharpe": qs.probabilistic_sharpe_ratio(series, periods=YEAR),
        },
        "empyrical": {
            "total_return": empyrical.cum_returns_final(values),
            "annual_return": empyrical.annual_return(values, annualization=YEAR),
            "annual_volatility": empyrical.annual_volatility(values, annualization=YEAR),
            "sharpe": empyrical.sharpe_ratio(values, annualization=YEAR),
            "sortino": empyrical.sortino_ratio(values, annualization=YEAR),
            "calmar": empyrical.calmar_ratio(values, annualization=YEAR),
            "max_drawdown": empyrical.max_drawdown(values),
            "omega": empyrical.omega_ratio(values, annualization=YEAR),
            "tail_ratio": empyrical.tail_ratio(values),
            "value_at_risk": empyrical.value_at_risk(values),
            "expected_shortfall": empyrical.conditional_value_at_risk(values),
        },
    }


if __name__ == "__main__":
    said = [
        {peer: {name: float(value) for name, value in found.items()} for peer, found in one.items()}
        for one in map(figures, json.load(sys.stdin))
    ]
    json.dump(said, sys.stdout)
