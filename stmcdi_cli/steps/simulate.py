"""Make a tissue whose true expression is known."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from stmcdi_cli import anndata_keys as keys
from stmcdi_cli import validation
from stmcdi_cli.io.stream import Block, Stream, disk_size
from stmcdi_cli.provenance import record
from stmcdi_cli.resources import n_workers
from stmcdi_cli.steps._step import step

if TYPE_CHECKING:
    from anndata import AnnData

SPACING = 100.0  # between spot centres; micrometres, as on a Visium slide
GENE_MEAN_SD = 1.6  # of the log mean over genes
DEPTH_SD = 0.4  # of the log library size over spots
PROGRAMME_SHARE = 0.2  # of the genes take part in a programme
LOADING_SD = 0.5  # change of log expression per unit of activity
CHUNK = 1024  # spots drawn at a time, each chunk from its own seed: memory stays bounded, results do not depend on it


@step
def simulate(
    *,
    n_spots: int = 2000,
    n_genes: int = 2000,
    n_sections: int = 1,
    n_domains: int = 5,
    n_programmes: int = 8,
    depth: float = 600.0,
    dispersion: float = 0.2,
    rates: bool = True,
    seed: int = 0,
) -> Stream:
    """Simulate spots of one or several serial tissue sections.

    Log expression is a gene's log mean plus gene programmes (sparse loadings, shared by all spots) times their
    activity at the spot: a level per domain plus a smooth gradient. Domains and gradients are random fields in three
    dimensions, so that consecutive sections resemble each other. Expression sums to 1 per spot and is multiplied by
    the library size (log-normal); counts are negative binomial around that rate, with variance ``rate + dispersion *
    rate**2``.

    Parameters
    ----------
    n_spots
        Spots in all, shared out over the sections.
    n_genes
        Genes; their means are log-normal.
    n_sections
        Tissue sections; their coordinates overlap.
    n_domains
        Spatial domains, shared by the sections.
    n_programmes
        Gene programmes, the rank of the log expression around the gene means.
    depth
        Median count per spot.
    dispersion
        Overdispersion of the counts; 0 draws Poisson counts.
    rates
        Keep the noise-free expected counts (dense float32, spots x genes); leave them out for huge sizes.
    seed
        Seed of everything random.

    Returns
    -------
    AnnData
        ``X`` counts (CSR float32); ``layers['rates']``; ``obsm['spatial']`` on a hexagonal grid, in micrometres;
        ``obs['section', 'domain', 'library_size']``; ``obsm['programmes']`` activities and ``varm['programmes']``
        loadings.

    Raises
    ------
    OptionError
        A number is out of range.
    """
    options: dict[str, Any] = {
        "n_spots": n_spots,
        "n_genes": n_genes,
        "n_sections": n_sections,
        "n_domains": n_domains,
        "n_programmes": n_programmes,
        "depth": depth,
        "dispersion": dispersion,
        "rates": rates,
        "seed": seed,
    }
    _check_options(**options)
    tissue_seed, counts_seed = np.random.SeedSequence(seed).spawn(2)
    random = np.random.default_rng(tissue_seed)

    sizes = np.full(n_sections, n_spots // n_sections) + (np.arange(n_sections) < n_spots % n_sections)
    section = np.repeat(np.arange(n_sections), sizes)
    xy = np.concatenate([hexagonal_grid(size) for size in sizes])
    place = np.column_stack([xy, 2 * SPACING * section]) / (SPACING * np.sqrt(sizes.max()))  # tissue is about 1 wide
    domain, activity = _activities(random, place, n_domains, n_programmes)
    loading, log_mean = _genes(random, n_genes, n_programmes)
    library_size = np.exp(random.normal(0, DEPTH_SD, n_spots))
    library_size *= depth / np.median(library_size)

    def draw(start: int, chunk_seed: np.random.SeedSequence) -> Block:
        spots = slice(start, min(start + CHUNK, n_spots))
        expression = np.exp(log_mean + activity[spots] @ loading.T)
        rate = expression * (library_size[spots] / expression.sum(1))[:, None]
        counts = _negative_binomial(np.random.default_rng(chunk_seed), rate, dispersion)
        return {keys.X: counts} | ({keys.RATES: rate.astype(np.float32)} if rates else {})

    def blocks() -> Iterator[Block]:
        starts = range(0, n_spots, CHUNK)
        seeds = counts_seed.spawn(len(starts))
        at_a_time = 2 * n_workers()
        with ThreadPoolExecutor(n_workers()) as pool:
            for i in range(0, len(starts), at_a_time):
                yield from pool.map(draw, starts[i : i + at_a_time], seeds[i : i + at_a_time])

    header = _header(xy, section, domain, library_size, activity, loading)
    record(header, "simulate", options)
    n_entries = n_spots * n_genes
    return Stream(header, blocks(), disk_size(min(depth * n_spots, n_entries), 0, n_entries if rates else 0))


def _check_options(
    *,
    n_spots: int,
    n_genes: int,
    n_sections: int,
    n_domains: int,
    n_programmes: int,
    depth: float,
    dispersion: float,
    rates: bool,
    seed: int,
) -> None:
    validation.at_least("n_genes", n_genes, 1)
    validation.at_least("n_sections", n_sections, 1)
    validation.at_least("n_spots", n_spots, n_sections)
    validation.at_least("n_domains", n_domains, 1)
    validation.at_least("n_programmes", n_programmes, 1)
    validation.positive("depth", depth)
    validation.at_least("dispersion", dispersion, 0.0)
    validation.at_least("seed", seed, 0)


def _activities(
    random: np.random.Generator, place: np.ndarray, n_domains: int, n_programmes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the domain of every spot [n] and the activity of every programme there [n, programmes]."""
    domain = np.argmax([_smooth_field(random, place, 0.35) for _ in range(n_domains)], axis=0)
    level = random.normal(size=(n_domains, n_programmes))
    gradient = np.column_stack([_smooth_field(random, place, 0.25) for _ in range(n_programmes)])
    return domain, level[domain] + gradient


def _genes(random: np.random.Generator, n_genes: int, n_programmes: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the loading of every gene on every programme [G, programmes], and its log mean [G]."""
    loading = random.normal(0, LOADING_SD, (n_genes, n_programmes))
    loading *= random.random(loading.shape) < PROGRAMME_SHARE
    return loading, random.normal(0, GENE_MEAN_SD, n_genes)


def _header(
    xy: np.ndarray,
    section: np.ndarray,
    domain: np.ndarray,
    library_size: np.ndarray,
    activity: np.ndarray,
    loading: np.ndarray,
) -> "AnnData":
    """Give the tissue without its counts; sections, domains, spots and genes are numbered from 1."""
    import pandas as pd
    from anndata import AnnData

    obs = pd.DataFrame(
        {
            "section": pd.Categorical([f"section_{i + 1}" for i in section]),
            "domain": pd.Categorical([f"domain_{i + 1}" for i in domain]),
            "library_size": library_size,
        },
        index=[f"spot_{i + 1}" for i in range(len(xy))],
    )
    return AnnData(
        obs=obs,
        var=pd.DataFrame(index=[f"gene_{i + 1}" for i in range(len(loading))]),
        obsm={keys.SPATIAL: xy, "programmes": activity.astype(np.float32)},
        varm={"programmes": loading.astype(np.float32)},
    )


def hexagonal_grid(n_spots: int) -> np.ndarray:
    """Centres of spots on a hexagonal grid about as wide as high, row by row: spots x 2, in micrometres."""
    per_row = max(1, round(np.sqrt(n_spots * np.sqrt(3) / 2)))
    row, column = np.divmod(np.arange(n_spots), per_row)
    return SPACING * np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(3) / 2])


def _smooth_field(random: np.random.Generator, place: np.ndarray, length: float, n_waves: int = 64) -> np.ndarray:
    """Draw a random field with mean 0, variance 1 and Gaussian correlation over ``length``: a sum of plane waves."""
    wave = random.normal(0, 1 / length, (place.shape[1], n_waves))
    phase = random.uniform(0, 2 * np.pi, n_waves)
    field = np.zeros(len(place))
    for k in range(n_waves):
        field += np.cos(place @ wave[:, k] + phase[k])
    return field * np.sqrt(2 / n_waves)


def _negative_binomial(random: np.random.Generator, rate: np.ndarray, dispersion: float) -> sp.csr_matrix:
    """Draw counts with mean ``rate`` and variance ``rate + dispersion * rate**2``: Poisson around a gamma."""
    if dispersion > 0:
        rate = rate * (dispersion * random.standard_gamma(1 / dispersion, rate.shape))
    return sp.csr_matrix(random.poisson(rate), dtype=np.float32)
