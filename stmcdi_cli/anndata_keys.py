"""Every AnnData key the steps read or write (the file contract, docs/output.md)."""

X = None  # X, wherever matrices go by their names: a layer may be called "X"
RAW_X = "raw/X"  # likewise; the name of a layer has no slash

SPATIAL = "spatial"  # obsm: spot coordinates
ARRAY_COL = "array_col"  # obs: column of a spot in Space Ranger's array
COUNTS = "counts"  # layer: raw counts as they came
MISSING = "missing"  # layer: bool, True = no value here; X holds 0 there
SIZE_FACTOR = "size_factor"  # obs: spot total / median total
EMPTY_SPOT = "empty_spot"  # obs: True where a spot has no counts at all
SAMPLE = "stmcdi_sample"  # obs: which of several joined tissues a spot is of
SECTION = "stmcdi_section"  # obs: the tissue and, if it has several, its section
ROLE = "stmcdi_role"  # obs: whether a spot is of the target or of a reference added to it
REFERENCE_SECTION = "stmcdi_reference_section"  # obs: section of a spot of the reference, if it has several
MEASURED = "measured"  # var: whether the target measured the gene
N_REFERENCE_CELLS = "n_reference_cells"  # var: in how many cells of the reference the gene is seen
LEFT_OUT_R = "left_out_r"  # var: correlation with true values, of a gene that was left out whole to learn that
LEFT_OUT_EXPECTED_R = "left_out_expected_r"  # var: the same as the model's own spread lets expect it
RATES = "rates"  # layer: the simulator's noise-free expected counts

HIGHLY_VARIABLE = "highly_variable"
MEANS = "means"
CV = "cv"
CV2_RESIDUAL = "cv2_residual"

CONNECTIVITIES = "spatial_connectivities"
DISTANCES = "spatial_distances"
NEIGHBORS = "spatial_neighbors"

LATENTS = "X_stmcdi"  # obsm: what the model sees in a spot, on principal axes
SMOOTH_LATENTS = "X_stmcdi_spatial"  # obsm: likewise, the part that it shares with its neighbours

IMPUTED = "imputed"
IMPUTED_SD = "imputed_sd"
IMPUTED_MEDIAN = "imputed_median"
IMPUTED_Q05 = "imputed_q05"
IMPUTED_Q95 = "imputed_q95"

PROVENANCE = "stmcdi"  # uns: one entry per step
