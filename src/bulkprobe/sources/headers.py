"""Column names of the official files that the simulator writes, in their order."""

from __future__ import annotations

# mc3.v0.2.8.PUBLIC.maf.gz
MAF_COLUMNS = (
    "Hugo_Symbol Entrez_Gene_Id Center NCBI_Build Chromosome Start_Position End_Position Strand "
    "Variant_Classification Variant_Type Reference_Allele Tumor_Seq_Allele1 Tumor_Seq_Allele2 dbSNP_RS "
    "dbSNP_Val_Status Tumor_Sample_Barcode Matched_Norm_Sample_Barcode Match_Norm_Seq_Allele1 "
    "Match_Norm_Seq_Allele2 Tumor_Validation_Allele1 Tumor_Validation_Allele2 Match_Norm_Validation_Allele1 "
    "Match_Norm_Validation_Allele2 Verification_Status Validation_Status Mutation_Status Sequencing_Phase "
    "Sequence_Source Validation_Method Score BAM_File Sequencer Tumor_Sample_UUID Matched_Norm_Sample_UUID "
    "HGVSc HGVSp HGVSp_Short Transcript_ID Exon_Number t_depth t_ref_count t_alt_count n_depth n_ref_count "
    "n_alt_count all_effects Allele Gene Feature Feature_type Consequence cDNA_position CDS_position "
    "Protein_position Amino_acids Codons Existing_variation ALLELE_NUM DISTANCE STRAND SYMBOL SYMBOL_SOURCE "
    "HGNC_ID BIOTYPE CANONICAL CCDS ENSP SWISSPROT TREMBL UNIPARC RefSeq SIFT PolyPhen EXON INTRON DOMAINS "
    "GMAF AFR_MAF AMR_MAF ASN_MAF EAS_MAF EUR_MAF SAS_MAF AA_MAF EA_MAF CLIN_SIG SOMATIC PUBMED MOTIF_NAME "
    "MOTIF_POS HIGH_INF_POS MOTIF_SCORE_CHANGE IMPACT PICK VARIANT_CLASS TSL HGVS_OFFSET PHENO MINIMISED "
    "ExAC_AF ExAC_AF_AFR ExAC_AF_AMR ExAC_AF_EAS ExAC_AF_FIN ExAC_AF_NFE ExAC_AF_OTH ExAC_AF_SAS GENE_PHENO "
    "FILTER COSMIC CENTERS CONTEXT DBVS NCALLERS"
).split()

# TCGA-CDR-SupplementalTableS1.xlsx, sheet TCGA-CDR, after the unnamed index column
CDR_COLUMNS = (
    "bcr_patient_barcode type age_at_initial_pathologic_diagnosis gender race ajcc_pathologic_tumor_stage "
    "clinical_stage histological_type histological_grade initial_pathologic_dx_year menopause_status "
    "birth_days_to vital_status tumor_status last_contact_days_to death_days_to cause_of_death "
    "new_tumor_event_type new_tumor_event_site new_tumor_event_site_other new_tumor_event_dx_days_to "
    "treatment_outcome_first_course margin_status residual_tumor OS OS.time DSS DSS.time DFI DFI.time PFI "
    "PFI.time Redaction"
).split()
